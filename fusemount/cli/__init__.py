"""The command line.  One module for each verb: it parses flags, calls one function and prints.

Law: of all rooms only `cli` reads the environment (tests/words/test_floors.py), and only `cli`
writes to the terminal.
"""
