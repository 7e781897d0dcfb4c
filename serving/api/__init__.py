"""What the server can be asked, without a transport."""
