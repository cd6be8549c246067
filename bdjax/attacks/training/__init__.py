"""How attackers who control training train."""
