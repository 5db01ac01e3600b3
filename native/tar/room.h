/* Room tar/.
 *
 * From the bytes of a tar to an index. Every number and name in these bytes is a stranger's.
 *
 * May include: base, index.
 */
