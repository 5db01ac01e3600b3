/* Room tar/.
 *
 * From the bytes of a tar to an index.  Every number and every name in these bytes is untrusted.
 *
 * May include: base, index.
 */
