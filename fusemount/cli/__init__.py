"""The command line.  One file a verb: parse flags, call one function, print.

Law: only this room reads the environment, and only this room writes to the terminal.
"""
