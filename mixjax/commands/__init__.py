"""The command line: `table` lists every command, `cli` calls the module that does what was asked for.

Each of the other modules makes one call down. Only what concerns flags, exit codes and printed lines belongs here.
"""
