"""The leaderboard: result files, their checks, submission, ranking and the pages made from them.

Nothing here imports torch: a board can be built and checked where only the small libraries are installed.
"""
