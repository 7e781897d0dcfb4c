"""HTTP/1.1 on the event loop; what requests mean is the business of `serving.rest.api`."""
