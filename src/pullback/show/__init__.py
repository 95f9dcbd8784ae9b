"""Shows the working: derivations, checks, pictures and accounts, all read off the primitives' own rules."""
