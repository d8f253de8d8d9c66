"""What every long-running verb needs: errors, seeds, atomic files, devices, progress, jobs."""
