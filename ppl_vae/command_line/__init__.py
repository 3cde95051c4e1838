"""The shared command line of the verbs: the parser, the pieces, errors and exit codes."""
