"""The methods of the server, independent of the transport."""
