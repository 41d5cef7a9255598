"""Worker processes: started, called, watched, started again."""
