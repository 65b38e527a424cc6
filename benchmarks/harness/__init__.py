"""What every measurement needs: a server, services, load, rounds and records."""
