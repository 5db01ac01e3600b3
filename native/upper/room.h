/* Room upper/.
 *
 * Changes of the running file system. Each is made both in the upper directory and in the tree, or
 * in neither.
 *
 * May include: base, index, dir, packed, tree.
 */
