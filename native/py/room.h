/* Room py/.
 *
 * The extension module fusemount._native. Only this room includes Python.h.
 *
 * May include: base, index, tar, dir, tree, upper, fast.
 */
