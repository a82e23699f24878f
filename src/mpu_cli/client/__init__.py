"""The data owner's half: it never needs, opens or finds a path of the server."""
