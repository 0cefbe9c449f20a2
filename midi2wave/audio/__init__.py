"""Read, write and resample audio; sample formats."""
