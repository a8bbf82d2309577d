//! A persistent sorted map for what there is a million of. A clone is a version that costs nothing;
//! a change copies the nodes on its way that other versions hold too.
//!
//! It is a B-tree whose nodes are as large as what is in them. `imbl::OrdMap` has nodes of fixed
//! size, half empty where keys come in rising order, as ids of sessions do and ids of hosts often:
//! an entry takes twice its size there. Here a node that is full at its end is left full.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Bound;
use std::slice;
use std::sync::Arc;

/// Entries of a node. Of more a change copies more, and each copy touches all that hangs off the node to count
/// who holds it; fewer take more memory for the nodes themselves. With 32 a registration beside readers
/// takes a quarter longer, one of a batch a tenth less (`cargo bench -p roster-storage --bench register`).
const NODE_MAX: usize = 16;

/// A node with fewer joins its neighbour where both fit into one with room to grow.
const NODE_FEW: usize = NODE_MAX / 4;

/// Sorted by key, each once.
#[derive(Clone)]
pub struct CompactMap<K, V> {
    root: Node<K, V>,
    len: usize,
}

#[derive(Clone)]
enum Node<K, V> {
    Leaf(Arc<Vec<(K, V)>>),
    /// Each with a key that is not above any in it, and above all in the one before.
    Branch(Arc<Vec<(K, Node<K, V>)>>),
}

/// What became of an insertion.
enum Inserted<K, V> {
    Added,
    Replaced(V),
    /// There was no room: this comes behind.
    Split(K, Node<K, V>),
}

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self { root: Node::Leaf(Arc::default()), len: 0 }
    }
}

impl<K, V> CompactMap<K, V> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        let mut iter = Iter { branches: Vec::new(), leaf: [].iter() };
        iter.descend(&self.root);
        iter
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entries from a key on.
    pub fn starting<Q: Ord + ?Sized>(&self, from: Bound<&Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let is_before = |key: &K| match from {
            Bound::Included(from) => key.borrow() < from,
            Bound::Excluded(from) => key.borrow() <= from,
            Bound::Unbounded => false,
        };
        let mut iter = Iter { branches: Vec::new(), leaf: [].iter() };
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    iter.leaf =
                        entries[entries.partition_point(|(key, _)| is_before(key))..].iter();
                    return iter;
                }
                Node::Branch(nodes) => {
                    // The one before the first that begins behind the bound may reach over it.
                    let at = nodes.partition_point(|(low, _)| is_before(low)).saturating_sub(1);
                    iter.branches.push(nodes[at + 1..].iter());
                    node = &nodes[at].1;
                }
            }
        }
    }

    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    /// With the key as it is kept here.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = position(entries, key).ok()?;
                    return entries.get(at).map(|(key, value)| (key, value));
                }
                Node::Branch(nodes) => node = &nodes[child_of(nodes, key)].1,
            }
        }
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Ord + Clone, V: Clone> CompactMap<K, V> {
    /// Of entries in the order of their keys, each key once. Nothing is searched, and every node but
    /// the last of each height is full.
    pub fn from_sorted(entries: Vec<(K, V)>) -> Self {
        debug_assert!(entries.is_sorted_by(|a, b| a.0 < b.0), "each key once, in order");
        let len = entries.len();
        let mut level: Vec<(K, Node<K, V>)> = nodes_of(entries, Node::Leaf);
        while level.len() > 1 {
            level = nodes_of(level, Node::Branch);
        }
        level.pop().map(|(_, root)| Self { root, len }).unwrap_or_default()
    }

    /// Returns what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.root.insert(key, value) {
            Inserted::Replaced(old) => return Some(old),
            Inserted::Added => {}
            Inserted::Split(low, right) => {
                let left = std::mem::replace(&mut self.root, Node::Leaf(Arc::default()));
                let first = left.low().unwrap_or(&low).clone();
                self.root = Node::Branch(Arc::new(vec![(first, left), (low, right)]));
            }
        }
        self.len += 1;
        None
    }

    /// The value to be changed, in a copy of its own where other versions hold it. The nodes on the way are
    /// copied too, even if there is no such key: looking for that first would take as long again.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = &mut self.root;
        loop {
            match node {
                Node::Leaf(entries) => {
                    let at = position(entries, key).ok()?;
                    return Arc::make_mut(entries).get_mut(at).map(|(_, value)| value);
                }
                Node::Branch(nodes) => {
                    let at = child_of(nodes, key);
                    node = &mut Arc::make_mut(nodes)[at].1;
                }
            }
        }
    }

    /// Returns what was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // A key that is not there must not copy the nodes on the way to it.
        if !self.contains_key(key) {
            return None;
        }
        let removed = self.root.remove(key);
        self.len -= usize::from(removed.is_some());
        while let Node::Branch(nodes) = &self.root
            && let [(_, only)] = nodes.as_slice()
        {
            self.root = only.clone();
        }
        removed
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Self::Leaf(entries) => entries.len(),
            Self::Branch(nodes) => nodes.len(),
        }
    }

    /// A key that is not above any in it.
    fn low(&self) -> Option<&K> {
        match self {
            Self::Leaf(entries) => entries.first().map(|(key, _)| key),
            Self::Branch(nodes) => nodes.first().map(|(low, _)| low),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    fn insert(&mut self, key: K, value: V) -> Inserted<K, V> {
        match self {
            Self::Leaf(entries) => match position(entries, &key) {
                Ok(at) => {
                    let old = std::mem::replace(&mut Arc::make_mut(entries)[at], (key, value));
                    Inserted::Replaced(old.1)
                }
                Err(at) => match put(entries, at, (key, value)) {
                    None => Inserted::Added,
                    Some(right) => Inserted::Split(right[0].0.clone(), Self::Leaf(Arc::new(right))),
                },
            },
            Self::Branch(nodes) => {
                let at = child_of(nodes, &key);
                let (low, child) = &mut Arc::make_mut(nodes)[at];
                // Only the first child may begin above the key.
                if at == 0 && key < *low {
                    *low = key.clone();
                }
                let (low, right) = match child.insert(key, value) {
                    Inserted::Split(low, right) => (low, right),
                    fits @ (Inserted::Added | Inserted::Replaced(_)) => return fits,
                };
                match put(nodes, at + 1, (low, right)) {
                    None => Inserted::Added,
                    Some(right) => {
                        Inserted::Split(right[0].0.clone(), Self::Branch(Arc::new(right)))
                    }
                }
            }
        }
    }

    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Self::Leaf(entries) => {
                let at = position(entries, key).ok()?;
                Some(take(entries, at).1)
            }
            Self::Branch(nodes) => {
                let at = child_of(nodes, key);
                let child = &mut Arc::make_mut(nodes)[at].1;
                let removed = child.remove(key);
                match child.len() {
                    0 => drop(take(nodes, at)),
                    1..NODE_FEW => join_neighbour(nodes, at),
                    _enough => {}
                }
                removed
            }
        }
    }

    /// Takes over all of the one behind it, of the same height.
    fn append(&mut self, behind: &Self) {
        match (self, behind) {
            (Self::Leaf(entries), Self::Leaf(more)) => extend(entries, more),
            (Self::Branch(nodes), Self::Branch(more)) => extend(nodes, more),
            (Self::Leaf(_), Self::Branch(_)) | (Self::Branch(_), Self::Leaf(_)) => {
                debug_assert!(false, "neighbours have one height");
            }
        }
    }
}

/// Items in full nodes, each node with its lowest key.
fn nodes_of<K: Clone, T, V>(
    items: Vec<(K, T)>,
    node: impl Fn(Arc<Vec<(K, T)>>) -> Node<K, V>,
) -> Vec<(K, Node<K, V>)> {
    let mut nodes = Vec::with_capacity(items.len().div_ceil(NODE_MAX));
    let mut items = items.into_iter();
    while items.len() > 0 {
        let mut part = Vec::with_capacity(items.len().min(NODE_MAX));
        part.extend(items.by_ref().take(NODE_MAX));
        nodes.push((part[0].0.clone(), node(Arc::new(part))));
    }
    nodes
}

fn position<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(known, _)| known.borrow().cmp(key))
}

/// Under which of the nodes a key is, if it is there. Branches are never empty.
fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(nodes: &[(K, V)], key: &Q) -> usize {
    nodes.partition_point(|(low, _)| low.borrow() <= key).saturating_sub(1)
}

/// Puts an item into its place. If there is no room, what comes behind is cut off and returned: half
/// of it, or only the new item if that is the last one.
fn put<T: Clone>(items: &mut Arc<Vec<T>>, at: usize, item: T) -> Option<Vec<T>> {
    if items.len() < NODE_MAX {
        insert_exactly(items, at, item);
        return None;
    }
    if at == items.len() {
        return Some(vec![item]);
    }
    let middle = NODE_MAX / 2;
    let mut right = Arc::new(items[middle..].to_vec());
    shorten(items, middle);
    if at <= middle {
        insert_exactly(items, at, item);
    } else {
        insert_exactly(&mut right, at - middle, item);
    }
    Some(Arc::unwrap_or_clone(right))
}

/// No room is left behind: that is what the map is for. One copy, whoever else holds the items.
fn insert_exactly<T: Clone>(items: &mut Arc<Vec<T>>, at: usize, item: T) {
    if let Some(own) = Arc::get_mut(items) {
        own.reserve_exact(1);
        own.insert(at, item);
        return;
    }
    let mut own = Vec::with_capacity(items.len() + 1);
    own.extend_from_slice(&items[..at]);
    own.push(item);
    own.extend_from_slice(&items[at..]);
    *items = Arc::new(own);
}

fn shorten<T: Clone>(items: &mut Arc<Vec<T>>, len: usize) {
    match Arc::get_mut(items) {
        Some(own) => {
            own.truncate(len);
            own.shrink_to_fit();
        }
        None => *items = Arc::new(items[..len].to_vec()),
    }
}

fn take<T: Clone>(items: &mut Arc<Vec<T>>, at: usize) -> T {
    let own = Arc::make_mut(items);
    let taken = own.remove(at);
    own.shrink_to_fit();
    taken
}

fn extend<T: Clone>(items: &mut Arc<Vec<T>>, more: &[T]) {
    let own = Arc::make_mut(items);
    own.reserve_exact(more.len());
    own.extend_from_slice(more);
}

/// Joins a node that has few entries with one beside it, if they fit into half of a node.
fn join_neighbour<K: Ord + Clone, V: Clone>(nodes: &mut Arc<Vec<(K, Node<K, V>)>>, at: usize) {
    let fits = |left: usize| {
        nodes.get(left + 1).is_some_and(|right| nodes[left].1.len() + right.1.len() <= NODE_MAX / 2)
    };
    let left = [at.checked_sub(1), Some(at)].into_iter().flatten().find(|left| fits(*left));
    if let Some(left) = left {
        let (_, right) = take(nodes, left + 1);
        Arc::make_mut(nodes)[left].1.append(&right);
    }
}

/// The entries of a [`CompactMap`] in the order of their keys.
pub struct Iter<'a, K, V> {
    /// What comes behind the leaf, from the root down.
    branches: Vec<slice::Iter<'a, (K, Node<K, V>)>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iter<'a, K, V> {
    /// Goes on with the first leaf under a node.
    fn descend(&mut self, mut node: &'a Node<K, V>) {
        loop {
            match node {
                Node::Leaf(entries) => {
                    self.leaf = entries.iter();
                    return;
                }
                Node::Branch(nodes) => {
                    let mut nodes = nodes.iter();
                    let Some((_, first)) = nodes.next() else { return };
                    self.branches.push(nodes);
                    node = first;
                }
            }
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            match self.branches.last_mut()?.next() {
                Some((_, node)) => self.descend(node),
                None => drop(self.branches.pop()),
            }
        }
    }
}

impl<'a, K, V> IntoIterator for &'a CompactMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for CompactMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for CompactMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl<K: Ord, V> Node<K, V> {
        /// Checks the order and the sizes; returns the height.
        fn check(&self, above: Option<&K>, below: Option<&K>, is_root: bool) -> usize {
            assert!(self.len() <= NODE_MAX && (is_root || self.len() > 0));
            let within = |key: &K| {
                above.is_none_or(|above| above <= key) && below.is_none_or(|below| key < below)
            };
            match self {
                Node::Leaf(entries) => {
                    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
                    assert!(entries.iter().all(|(key, _)| within(key)));
                    assert_eq!(entries.capacity(), entries.len(), "no room is wasted");
                    0
                }
                Node::Branch(nodes) => {
                    assert!(nodes.is_sorted_by(|a, b| a.0 < b.0));
                    let heights = nodes.iter().enumerate().map(|(at, (low, node))| {
                        assert!(within(low));
                        node.check(
                            Some(low),
                            nodes.get(at + 1).map(|(low, _)| low).or(below),
                            false,
                        )
                    });
                    let heights: Vec<_> = heights.collect();
                    assert!(heights.iter().all(|height| *height == heights[0]));
                    heights[0] + 1
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u16, u8),
        Change(u16, u8),
        /// Many in rising order, as ids of sessions come.
        Append(u16),
        Remove(u16),
        /// Many that follow each other, as a departure of a session takes them.
        RemoveFrom(u16),
        /// Somebody holds this version from now on.
        Hold,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..2_000_u16, any::<u8>()).prop_map(|(key, value)| Act::Insert(key, value)),
            2 => (0..2_000_u16, any::<u8>()).prop_map(|(key, value)| Act::Change(key, value)),
            1 => (0..2_000_u16).prop_map(Act::Append),
            3 => (0..2_000_u16).prop_map(Act::Remove),
            1 => (0..2_000_u16).prop_map(Act::RemoveFrom),
            1 => Just(Act::Hold),
        ]
    }

    fn carry_out(act: &Act, map: &mut CompactMap<u16, u8>, model: &mut BTreeMap<u16, u8>) {
        match *act {
            Act::Insert(key, value) => {
                assert_eq!(map.insert(key, value), model.insert(key, value));
            }
            Act::Change(key, value) => {
                let (known, modelled) = (map.get_mut(&key), model.get_mut(&key));
                assert_eq!(known, modelled);
                known.into_iter().chain(modelled).for_each(|known| *known = value);
            }
            Act::Append(from) => {
                for key in from..from + 100 {
                    assert_eq!(map.insert(key, 0), model.insert(key, 0));
                }
            }
            Act::Remove(key) => assert_eq!(map.remove(&key), model.remove(&key)),
            Act::RemoveFrom(from) => {
                for key in from..from + 70 {
                    assert_eq!(map.remove(&key), model.remove(&key));
                }
            }
            Act::Hold => {}
        }
    }

    proptest! {
        #[test]
        fn it_is_a_sorted_map_and_every_version_stays_as_it_was(
            acts in proptest::collection::vec(act(), 1..120),
            asked in proptest::collection::vec(0..2_200_u16, 8),
        ) {
            let (mut map, mut model) = (CompactMap::default(), BTreeMap::new());
            let mut held = Vec::new();
            for act in &acts {
                carry_out(act, &mut map, &mut model);
                if matches!(act, Act::Hold) {
                    held.push((map.clone(), model.clone()));
                }
            }
            held.push((map, model));
            for (map, model) in &held {
                map.root.check(None, None, true);
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.iter().eq(model.iter()));
                for key in &asked {
                    prop_assert_eq!(map.get(key), model.get(key));
                    for bound in [Bound::Included(key), Bound::Excluded(key)] {
                        let wanted = model.range((bound, Bound::Unbounded));
                        prop_assert!(map.starting(bound).eq(wanted));
                    }
                }
            }
        }
    }

    #[test]
    fn keys_in_rising_order_fill_their_nodes() {
        let entries = NODE_MAX as u64 * 1_000;
        let map: CompactMap<u64, ()> = (0..entries).map(|key| (key, ())).collect();
        assert_eq!(nodes_by_height(&map)[0], 1_000);
    }

    /// How many nodes there are, the leaves first.
    fn nodes_by_height<K, V>(map: &CompactMap<K, V>) -> Vec<usize> {
        let mut heights = Vec::new();
        let mut nodes = vec![&map.root];
        while !nodes.is_empty() {
            heights.push(nodes.len());
            let below = nodes.into_iter().flat_map(|node| match node {
                Node::Leaf(_) => [].iter(),
                Node::Branch(below) => below.iter(),
            });
            nodes = below.map(|(_, node)| node).collect();
        }
        heights.reverse();
        heights
    }

    /// As few as so many entries need.
    fn nodes_needed(len: usize) -> Vec<usize> {
        let height = |below: &usize| (*below > 1).then(|| below.div_ceil(NODE_MAX));
        std::iter::successors(Some(len.div_ceil(NODE_MAX).max(1)), height).collect()
    }

    proptest! {
        /// Made in one piece, it is the same map, and can be changed like any other.
        #[test]
        fn a_map_of_sorted_entries_is_as_if_each_had_been_inserted(
            keys in proptest::collection::btree_set(0..2_200_u16, 0..1_500),
            acts in proptest::collection::vec(act(), 0..40),
        ) {
            let mut model: BTreeMap<u16, u8> = keys.into_iter().map(|key| (key, key as u8)).collect();
            let mut map = CompactMap::from_sorted(model.clone().into_iter().collect());
            map.root.check(None, None, true);
            prop_assert_eq!(nodes_by_height(&map), nodes_needed(model.len()));
            prop_assert!(map.iter().eq(model.iter()));
            for act in &acts {
                carry_out(act, &mut map, &mut model);
            }
            map.root.check(None, None, true);
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.iter().eq(model.iter()));
        }
    }
}
