"""Small programs that other engines' Pythons run; they import nothing of Paceline."""
