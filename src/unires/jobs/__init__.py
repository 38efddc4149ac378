"""Many photos: folders of any size, resumable, on one machine or several."""
