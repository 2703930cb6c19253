"""embed-frames: frames through CREPA's teacher."""
