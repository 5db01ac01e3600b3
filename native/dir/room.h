/* Room dir/.
 *
 * From a directory on the host to an index, and back to the bytes of its files.
 *
 * May include: base, index.
 */
