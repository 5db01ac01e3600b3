/* Room upper/.
 *
 * Changes: each is made in the upper directory and in the tree together, or in neither.
 *
 * May include: base, index, dir, tree.
 */
