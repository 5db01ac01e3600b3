"""Floor 7: the command line.  One file a verb: parse flags, call one function, print.

Law: only this floor reads the environment, and only this floor writes to the terminal.
"""
