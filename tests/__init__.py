"""The tests. This file makes the folder a package of its own: torch-fidelity's wheel brings another
package of this name, which would be found before a folder without such a file.
"""
