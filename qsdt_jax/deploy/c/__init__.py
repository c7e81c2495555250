"""The C form: one C99 file of a program, and what it is made of."""
