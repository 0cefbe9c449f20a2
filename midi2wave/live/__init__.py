"""Playing while the sound is generated: performances that grow, and the server of play.py."""
