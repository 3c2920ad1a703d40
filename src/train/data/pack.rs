//! First fit: each row goes to the first sequence that has room for it.

/// Puts `rows` into sequences of at most `capacity` positions, each row in turn into the first that has room.
/// No row may be longer than `capacity`.
pub(super) fn first_fit(
    rows: &[usize],
    positions: impl Fn(usize) -> usize,
    capacity: usize,
) -> Vec<Vec<usize>> {
    // A tree of the room that is left: a node holds the most below it. Sequences not begun have all of theirs, so
    // the first leaf with enough is the first fit or a new sequence.
    let leaves = rows.len().next_power_of_two();
    let mut room = vec![capacity; 2 * leaves];
    let mut sequences: Vec<Vec<usize>> = Vec::new();
    for &row in rows {
        let len = positions(row);
        debug_assert!(len <= capacity);
        let mut node = 1;
        while node < leaves {
            node = if room[2 * node] >= len { 2 * node } else { 2 * node + 1 };
        }
        let sequence = node - leaves;
        if sequence == sequences.len() {
            sequences.push(Vec::new());
        }
        sequences[sequence].push(row);
        room[node] = room[node].saturating_sub(len);
        while node > 1 {
            node /= 2;
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
    }
    sequences
}

#[cfg(test)]
mod tests {
    use super::first_fit;

    #[test]
    fn each_row_goes_to_the_first_sequence_with_room() {
        let lengths = [5, 7, 4, 1, 10, 3, 2, 6];
        let rows: Vec<usize> = (0..lengths.len()).collect();
        let fitted = first_fit(&rows, |row| lengths[row], 10);
        let mut plain: Vec<Vec<usize>> = Vec::new();
        for &row in &rows {
            let has_room =
                |s: &&mut Vec<usize>| s.iter().map(|&r| lengths[r]).sum::<usize>() + lengths[row] <= 10;
            match plain.iter_mut().find(has_room) {
                Some(sequence) => sequence.push(row),
                None => plain.push(vec![row]),
            }
        }
        assert_eq!(fitted, plain);
        assert_eq!(fitted[0], [0, 2, 3]);
        assert_eq!(first_fit(&[4], |_| 3, 3), [[4]]);
        assert!(first_fit(&[], |_| 3, 3).is_empty());
    }
}
