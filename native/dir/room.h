/* Room dir/.
 *
 * Directory layers: from a directory on the host to an index, and from the index to the files.
 *
 * May include: base, index.
 */
