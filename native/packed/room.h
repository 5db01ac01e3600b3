/* Room packed/.
 *
 * Random access into a compressed tar: decoders that can begin in the middle, the access points
 * that say where they can, and the chunk cache that keeps what was decompressed.  The room knows
 * offsets of the uncompressed tar and of the compressed blob; it does not know members or files.
 *
 * May include: base.
 */
