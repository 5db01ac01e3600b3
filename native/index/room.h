/* Room index/.
 *
 * The index of one layer: its members as arrays, which can be written to a file and read back.  The
 * room does not depend on where the members come from: tar/ or dir/.
 *
 * May include: base.
 */
