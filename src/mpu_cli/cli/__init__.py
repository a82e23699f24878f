"""The only code that parses arguments, prints, or exits."""
