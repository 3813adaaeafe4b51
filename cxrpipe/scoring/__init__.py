"""One study's way: prepare, predict, finish, land. The plain loop is the specification; Ray makes it parallel."""
