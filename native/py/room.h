/* Room py/.
 *
 * The extension module fusemount._native: shows the other rooms to Python. Only this room includes
 * Python.h.
 *
 * May include: base, index, tar, dir, packed, tree, upper, fast.
 */
