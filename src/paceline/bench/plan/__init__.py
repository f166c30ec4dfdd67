"""What a model will cost on a machine, from its configuration and the roofline: ``paceline plan``."""
