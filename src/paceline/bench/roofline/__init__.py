"""How fast the machine could be, what an operation needs of it, and how near to that it comes."""
