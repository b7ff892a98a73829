"""The commands: each calls the library and prints what it returns."""
