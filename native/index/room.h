/* Room index/.
 *
 * The index of one layer: its members as an array that is written to a file and mapped again.
 * Nothing here knows where a layer's members come from.
 *
 * May include: base.
 */
