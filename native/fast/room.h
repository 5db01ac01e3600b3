/* Room fast/.
 *
 * The fast path: threads that answer FUSE requests from the tree and the upper without Python, and
 * send all other requests to pyfuse3. Only this room uses the FUSE protocol. No thread of this room
 * waits for Python.
 *
 * May include: base, index, dir, packed, tree, upper.
 */
