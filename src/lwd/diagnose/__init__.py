"""Where does the chain break? One measurement per link, on held-out data."""
