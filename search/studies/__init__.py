"""One study a file: `make studies` lists them, a new file here is a new study."""
