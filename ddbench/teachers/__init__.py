"""Networks trained on real data that label synsets' views, guide recovery, and choose crops."""
