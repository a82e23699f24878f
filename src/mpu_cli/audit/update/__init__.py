"""What the server can learn from an update, measured by the client before handing it over."""
