"""One file per kind of evidence that tracing or compiling changes a step."""
