/* Room fast/.
 *
 * The fast path: threads that answer FUSE requests from the tree without Python, and hand the rest
 * on to pyfuse3. Only this room knows the FUSE protocol. No thread here ever waits for Python.
 *
 * May include: base, index, dir, tree, upper.
 */
