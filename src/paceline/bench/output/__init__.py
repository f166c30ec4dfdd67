"""Reports as text, files and pages: one module an output, none of which knows a command."""
