/* Room tree/.
 *
 * The merged tree of all layers and the upper.  Only this room has names, attributes, and the
 * position of each file's contents.  It changes no file on disk and does not depend on FUSE.
 *
 * May include: base, index, dir, packed.
 */
