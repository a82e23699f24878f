"""A kit of broken files: what each command does with what a hostile or careless party sends."""
