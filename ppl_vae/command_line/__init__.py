"""What all verbs share on the command line: the parser, the pieces, errors and exit codes."""
