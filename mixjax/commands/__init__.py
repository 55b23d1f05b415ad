"""The command line: each module parses the flags of one command and makes one call down.

Only what concerns flags, exit codes and printed lines belongs here.
"""
