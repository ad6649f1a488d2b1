"""Does a model fit on some hardware, why not, what would help: arithmetic on facts, without files or processes."""
