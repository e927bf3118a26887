"""The places that keep shipments, one a file; `optimize.ship.url` opens them."""
