/* Room tree/.
 *
 * The merged tree of all layers and the upper: the one owner of names and attributes, and of where
 * a file's bytes are. Nothing here changes a disk, and nothing knows FUSE.
 *
 * May include: base, index, dir.
 */
